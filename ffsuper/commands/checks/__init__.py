"""What ``ffsuper check`` finds before a deploy that a worker would run into afterwards. It changes nothing."""
