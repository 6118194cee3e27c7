"""The optional residual corrector: small trees beside the terms of a kernel model, never in their place."""
