"""Jobs side by side, in processes of this machine."""
