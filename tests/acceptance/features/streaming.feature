Feature: A JAR runs under Nomad and its output is in Nomad's logs as it is printed

  Background:
    Given a host with Java
    And a Nomad agent with the driver

  Scenario: The output of a running application is followed
    Given streaming-test.jar served over HTTP
    And a job file with an artifact block
    When the user runs "nomad job run"
    And the user waits 5 seconds
    And the user runs "nomad alloc logs -f"
    Then the output shows "Starting application..."
    And the output shows a new "Processing..." every 2 seconds
    And the task is "running"

  Scenario: Hello world
    Given hello.jar served over HTTP
    And a job file with an artifact block
    When the user runs "nomad job run"
    And the task has ended
    Then the task has ended well
    And the log is exactly
      """
      Hello, world!
      Goodbye.
      """

  Scenario: An application that fails
    Given exit42.jar served over HTTP
    And a job file with an artifact block
    When the user runs "nomad job run"
    And the task has ended
    Then Nomad shows the exit code 42
    And the log is exactly
      """
      About to fail
      """
