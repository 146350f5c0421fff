# A service that is given time to end: SIGTERM runs the JVM's shutdown hooks, and what they
# print is still logged. After kill_timeout everything in the container is killed.
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "graceful" {
  type = "service"

  group "app" {
    restart {
      attempts = 3
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    task "app" {
      driver       = "milo"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      artifact {
        source = "${var.url}/stubborn.jar"
      }

      config {
        args = ["1000"]
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
