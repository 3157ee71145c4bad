"""What a run says of itself: tables, the study as data, the model card, pictures."""
