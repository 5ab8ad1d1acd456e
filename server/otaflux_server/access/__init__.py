"""Who may use the internal API: a ServiceAccount, whoever has the shared token, or anybody."""
