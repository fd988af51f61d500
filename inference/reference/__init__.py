"""The posterior of small models, exactly or by samplers: enumeration, Gibbs, NUTS, on the declaration of a fit."""
