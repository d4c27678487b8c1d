"""Reports: what data and runs are like, measured and written down for people and programs."""
