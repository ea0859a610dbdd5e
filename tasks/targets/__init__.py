"""Whether a challenger may become a target."""
