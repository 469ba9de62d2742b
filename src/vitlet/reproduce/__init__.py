"""The living replication: the paper's tables, figures and claims as data, run at any scale."""
