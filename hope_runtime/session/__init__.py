"""What a session knows: levels, window, and the one noun that owns both."""
