"""Wide finite networks as samples of single neurons: no equation is solved."""
