"""Analysis of a fit: conversion to ArviZ, diagnostics, plots and tables."""
