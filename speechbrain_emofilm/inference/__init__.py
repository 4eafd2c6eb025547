"""From marked-up text to speech."""
