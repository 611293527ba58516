"""Looking at what there is: data, configs, runs, the machine."""
