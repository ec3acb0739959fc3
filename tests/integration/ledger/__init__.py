"""Tests of the ledger on real databases and a real Valkey."""
