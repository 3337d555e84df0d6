"""Dashboards, alert rules, notifications, compose file, and the script that checks a live stack."""
