"""The steps of the line, one module each: functions over schema objects that work without a scheduler."""
