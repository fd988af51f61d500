"""The negative ELBO and the estimators of its gradients."""
