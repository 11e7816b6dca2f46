"""Data: cases from listing files, strict NIfTI reading, preprocessing, sampling and segments on the device."""
