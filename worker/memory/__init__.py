"""What was decided of a picture, and of pictures that look the same."""
