"""What users and files give: numbers, settings, sizes and plans, checked, and the sentence that says what is wrong."""
