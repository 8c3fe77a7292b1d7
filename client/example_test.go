package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

// endpoints starts an in-process store for an example.
func endpoints() (eps []string, stop func()) {
	t := &exampleT{}
	return fakestore.Start(t, 1).Endpoints(), t.stop
}

// exampleT runs the store's clean-up at the end of an example.
type exampleT struct {
	testing.TB
	cleanup []func()
}

func (t *exampleT) Helper()          {}
func (t *exampleT) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }
func (t *exampleT) Fatal(a ...any)   { log.Fatal(a...) }
func (t *exampleT) stop() {
	for _, f := range t.cleanup {
		f()
	}
}

func ExampleNew() {
	c, err := client.New(client.Config{
		Endpoints:   []string{"http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"},
		DialTimeout: 2 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}

func ExampleClient_Put() {
	eps, stop := endpoints()
	defer stop()
	c, err := client.New(client.Config{Endpoints: eps})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	_, err = c.Put(ctx, "greeting", "hello")
	switch {
	case errors.Is(err, client.ErrUncertain):
		fmt.Println("look whether it is there before trying again")
	case err != nil:
		log.Fatal(err)
	}
	resp, err := c.Get(ctx, "greet", client.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		fmt.Printf("%s = %s, written at revision %d\n", kv.Key, kv.Value, kv.ModRevision)
	}
	// Output: greeting = hello, written at revision 2
}

func ExampleClient_Txn() {
	eps, stop := endpoints()
	defer stop()
	c, err := client.New(client.Config{Endpoints: eps})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// Create a key only if it does not exist.
	create := func(value string) {
		resp, err := c.Txn(context.Background()).
			If(client.CreateRevision("owner").Equals(0)).
			Then(client.OpPut("owner", value)).
			Else(client.OpGet("owner")).
			Commit()
		if err != nil {
			log.Fatal(err)
		}
		if resp.Succeeded {
			fmt.Println("created by", value)
		} else {
			fmt.Println("exists already:", string(resp.Responses[0].GetResponseRange().Kvs[0].Value))
		}
	}
	create("alice")
	create("bob")
	// Output:
	// created by alice
	// exists already: alice
}

func ExampleClient_Watch() {
	eps, stop := endpoints()
	defer stop()
	c, err := client.New(client.Config{Endpoints: eps})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	// List, then watch from the revision after the list: nothing is missed in between.
	list, err := c.Get(ctx, "job/", client.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	w := c.Watch(ctx, "job/", client.WithPrefix(), client.WithRev(list.Header.Revision+1))
	defer w.Close()

	_, _ = c.Put(ctx, "job/1", "start")
	_, _ = c.Delete(ctx, "job/1")

	for resp, err := range w.All(ctx) {
		var compacted *client.CompactedError
		switch {
		case errors.As(err, &compacted):
			fmt.Println("list again, the history before", compacted.CompactRevision, "is gone")
			return
		case err != nil:
			log.Fatal(err)
		}
		for _, ev := range resp.Events {
			fmt.Println(ev.Type, string(ev.Kv.Key))
			if ev.Type == client.EventDelete {
				return
			}
		}
	}
	// Output:
	// PUT job/1
	// DELETE job/1
}

func ExampleClient_KeepAlive() {
	eps, stop := endpoints()
	defer stop()
	c, err := client.New(client.Config{Endpoints: eps})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	lease, err := c.Grant(ctx, 10)
	if err != nil {
		log.Fatal(err)
	}
	id := client.LeaseID(lease.ID)
	if _, err := c.Put(ctx, "alive/me", "yes", client.WithLease(id)); err != nil {
		log.Fatal(err)
	}
	alive, err := c.KeepAlive(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	// The lease ends elsewhere, and the client notices.
	if _, err := c.Revoke(ctx, id); err != nil {
		log.Fatal(err)
	}
	_, err = c.KeepAliveOnce(ctx, id)
	<-alive.Done()
	fmt.Println(errors.Is(err, rpctypes.ErrLeaseNotFound), alive.Err())
	// Output: true etcdserver: requested lease not found
}

func ExampleClient_Snapshot() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.Snapshot(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	f, err := os.Create("backup.db")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, s); err != nil {
		log.Fatal(err)
	}
	fmt.Println("of server version", s.Version)
}
