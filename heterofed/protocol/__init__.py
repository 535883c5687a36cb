"""What the parties may say to each other, and when. No clock, socket or torch here."""
