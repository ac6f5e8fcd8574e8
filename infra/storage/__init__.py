"""S3: folders of whole files in a bucket, and sources read by their URI."""
