"""python -m jobs.import_released: register the authors' released weights."""
