"""What a version says of itself: its card, its accuracy, its methods' summaries."""
