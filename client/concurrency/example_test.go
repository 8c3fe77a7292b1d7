package concurrency_test

import (
	"context"
	"fmt"
	"log"
	"strconv"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/concurrency"
)

func ExampleMutex() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	s, err := concurrency.NewSession(ctx, c, concurrency.WithTTL(10))
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	m := concurrency.NewMutex(s, "locks/report")
	if err := m.Lock(ctx); err != nil {
		log.Fatal(err)
	}
	defer m.Unlock(ctx)
	// Only while the lock is still held:
	if _, err := c.Txn(ctx).If(m.IsOwner()).Then(client.OpPut("report", "done")).Commit(); err != nil {
		log.Fatal(err)
	}
}

func ExampleElection() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	s, err := concurrency.NewSession(ctx, c)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	e := concurrency.NewElection(s, "leader/scheduler")
	go func() {
		for kv, err := range e.Observe(ctx) {
			if err != nil {
				return
			}
			fmt.Println("the leader is", string(kv.Value))
		}
	}()
	if err := e.Campaign(ctx, "node-1"); err != nil {
		log.Fatal(err)
	}
	select {
	case <-s.Done(): // no longer the leader
	case <-ctx.Done():
	}
}

func ExampleSTM() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = concurrency.STM(context.Background(), c, func(tx *concurrency.Tx) error {
		v, err := tx.Get("counter")
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(v)
		tx.Put("counter", strconv.Itoa(n+1))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}
