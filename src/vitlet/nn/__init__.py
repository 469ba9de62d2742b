"""The network: one encoder that knows no method, and the parts that methods share."""
