package namespace_test

import (
	"context"
	"log"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/namespace"
)

func ExampleNew() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	app := namespace.New(c, "tenants/blue/")
	// Writes tenants/blue/config.
	if _, err := app.Put(context.Background(), "config", "1"); err != nil {
		log.Fatal(err)
	}
}
