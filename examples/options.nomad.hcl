# The keys of the config block, with Nomad's own variables in them.
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "options" {
  type = "batch"

  group "app" {
    task "probe" {
      driver = "milo"

      artifact {
        source = "${var.url}/probe.jar"
      }

      config {
        jar_path    = "${NOMAD_TASK_DIR}/probe.jar"
        args        = ["--name", "${NOMAD_JOB_NAME}"]
        jvm_options = ["-Xss512k", "-Dmilo.test=${NOMAD_ALLOC_ID}"]

        # Rather lose output than wait when nobody reads the log.
        log_overflow = "drop"

        # No more CPU than the task's share, even when the host is idle.
        cpu_hard_limit = true
      }

      env {
        GREETING = "hello"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
