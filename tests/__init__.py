"""The tests mirror the folders of the code; `oracles` holds independent references written for them."""
