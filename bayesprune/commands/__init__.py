"""What the commands of the command line do, as functions that scripts may call too."""
