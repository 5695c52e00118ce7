"""What people look at: mosaics of slices, a page for each participant, a page for the group."""
