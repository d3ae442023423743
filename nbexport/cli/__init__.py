"""The command ``nbexport``: one thin module a command group."""
