# A service with a health check: Nomad asks /health, and takes the port from its own pool.
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "web" {
  type = "service"

  group "app" {
    network {
      port "http" {}
    }

    service {
      name     = "web"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/health"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "web" {
      driver       = "milo"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      artifact {
        source = "${var.url}/web-service.jar"
      }

      config {
        jvm_options = ["-XX:+UseG1GC"]
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
