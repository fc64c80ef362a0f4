"""Native HOPE: models that are trained from scratch with fast memories and full-rank levels."""
