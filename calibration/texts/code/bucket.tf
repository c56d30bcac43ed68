variable "environment" {
  type        = string
  description = "Where this lives: staging or production."
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "The environment must be staging or production."
  }
}

locals {
  name = "herbarium-scans-${var.environment}"
  tags = { project = "herbarium", environment = var.environment }
}

resource "aws_s3_bucket" "scans" {
  bucket = local.name
  tags   = local.tags
}

resource "aws_s3_bucket_versioning" "scans" {
  bucket = aws_s3_bucket.scans.id
  versioning_configuration {
    status = var.environment == "production" ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "scans" {
  bucket = aws_s3_bucket.scans.id
  dynamic "rule" {
    for_each = { "raw/" = 30, "previews/" = 180 }
    content {
      id     = "age-${trim(rule.key, "/")}"
      status = "Enabled"
      filter { prefix = rule.key }
      transition {
        days          = rule.value
        storage_class = "GLACIER_IR"
      }
    }
  }
}

output "bucket_arn" {
  value = aws_s3_bucket.scans.arn
}
