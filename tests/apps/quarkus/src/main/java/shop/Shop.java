package shop;

import jakarta.ws.rs.GET;
import jakarta.ws.rs.Path;
import org.eclipse.microprofile.config.inject.ConfigProperty;

/** Answers / with a greeting from its configuration, and /slow after two seconds. */
@Path("/")
public class Shop {
    @ConfigProperty(name = "shop.greeting", defaultValue = "none")
    String greeting;

    @GET
    public String greet() {
        return greeting;
    }

    @GET
    @Path("slow")
    public String wait2s() throws InterruptedException {
        System.out.println("slow request");
        Thread.sleep(2000);
        return greeting;
    }
}
