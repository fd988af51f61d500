"""What is trained beside the optimizer: gates and their removal, averages of iterates, schedules."""
