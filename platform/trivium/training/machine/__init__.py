"""What a run takes from the machine that it is on: device, threads, compiler."""
