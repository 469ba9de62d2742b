"""The living replication: the paper's tables, figures and claims as data, runnable at any scale."""
