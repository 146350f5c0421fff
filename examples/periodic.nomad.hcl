# Runs every night, never twice at a time. At once: nomad job periodic force nightly
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "nightly" {
  type = "batch"

  periodic {
    crons            = ["30 3 * * *"]
    time_zone        = "UTC"
    prohibit_overlap = true
  }

  group "app" {
    task "app" {
      driver = "milo"

      artifact {
        source = "${var.url}/hello.jar"
      }

      config {
        args = []
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
