package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/durable-go/durable/durableconnect"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

// measureLife measures starts and activations on a store that has its objects
// already.
func measureLife(ctx context.Context, s settings) error {
	c, err := start(storeDir(s))
	if err != nil {
		return err
	}
	if err := c.get(ctx, fmt.Sprintf("/fill?objects=%d", s.objects), new(bytes.Buffer)); err != nil {
		c.stop()
		return err
	}
	c.stop()

	// From the start of the process to the first answer.
	var starts []time.Duration
	for range 5 {
		began := time.Now()
		c, err := start(storeDir(s))
		if err != nil {
			return err
		}
		_, err = counterv1durable.NewCounterClient(durableconnect.New(httpClient(false, 1), c.url)).
			GetByName(objectName(7)).Get(ctx, &counterv1.GetRequest{})
		starts = append(starts, time.Since(began))
		c.stop()
		if err != nil {
			return err
		}
	}
	slices.Sort(starts)

	cold, warm, err := activations(ctx, s)
	if err != nil {
		return err
	}
	fmt.Print("## Starts and activations\n\n| what | figure |\n| --- | --- |\n")
	fmt.Printf("| start after kill -9 to the first answer, store of %d objects | %v (median of %d) |\n", s.objects, starts[len(starts)/2].Round(time.Millisecond), len(starts))
	fmt.Printf("| CPU of a call that activates its object from disk, in process | %v |\n", cold.Round(100*time.Nanosecond))
	fmt.Printf("| CPU of the same call when the object is in memory | %v |\n\n", warm.Round(100*time.Nanosecond))
	return nil
}

// activations calls every object twice, one after another, and returns the CPU
// time of the first and of the second call.
func activations(ctx context.Context, s settings) (cold, warm time.Duration, err error) {
	engine, err := pebblekv.Open(storeDir(s), pebblekv.Options{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = engine.Close() }()
	srv, err := server.New(ctx, engine)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = srv.Close(ctx) }()
	if err := counterv1durable.RegisterCounter(srv, newCounter); err != nil {
		return 0, 0, err
	}
	client := counterv1durable.NewCounterClient(srv.Conn())
	pass := func() (time.Duration, error) {
		began := cpuTime()
		for i := range s.objects {
			if _, err := client.GetByName(objectName(i)).Get(ctx, &counterv1.GetRequest{}); err != nil {
				return 0, err
			}
		}
		return (cpuTime() - began) / time.Duration(s.objects), nil
	}
	if cold, err = pass(); err != nil {
		return 0, 0, err
	}
	warm, err = pass()
	return cold, warm, err
}
