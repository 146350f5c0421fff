# Output is kept in files of a size and number; of the rest the oldest goes. When nobody reads
# (the disk is slow, the agent is down for long), the application waits for a minute at most.
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "rotation" {
  type = "batch"

  group "app" {
    ephemeral_disk {
      size = 100
    }

    task "app" {
      driver = "milo"

      artifact {
        source = "${var.url}/both.jar"
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }

      config {
        args              = ["1000"]
        log_overflow      = "block"
        log_block_timeout = "1m"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
