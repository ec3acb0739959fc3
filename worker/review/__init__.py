"""The second opinion on gray pictures: cloud providers, routed, limited and budgeted."""
