package shop;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** Answers / with a greeting from its configuration, and /slow after two seconds. */
@SpringBootApplication
@RestController
public class Shop {
    @Value("${shop.greeting:none}")
    String greeting;

    public static void main(String[] args) {
        SpringApplication.run(Shop.class, args);
    }

    @GetMapping("/")
    String greet() {
        return greeting;
    }

    @GetMapping("/slow")
    String wait2s() throws InterruptedException {
        System.out.println("slow request");
        Thread.sleep(2000);
        return greeting;
    }
}
