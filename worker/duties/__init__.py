"""What has to happen again and again: ringing, alarms, deleting what is old."""
