"""What people run beside the workers, which import nothing of it: evaluation, costs, backfills."""
