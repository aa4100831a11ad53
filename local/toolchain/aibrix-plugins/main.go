// AIBrix's gateway plugin out of its own module: only the main package is ours. The published one has a profiler on a
// fixed port, which two rehearsals cannot share, reads its endpoints once, and needs Redis for anything else. Without
// Redis limits by user and state shared between plugins are off, as in AIBrix's own standalone mode.
package main

import (
	"flag"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/vllm-project/aibrix/pkg/cache"
	"github.com/vllm-project/aibrix/pkg/cache/discovery"
	"github.com/vllm-project/aibrix/pkg/plugins/gateway"
	routing "github.com/vllm-project/aibrix/pkg/plugins/gateway/algorithms"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

const (
	// As the published one's, without its variable for another.
	mostBytes = 4 * 1024 * 1024
	look      = 200 * time.Millisecond
)

// endpoints tells of the pods of a file in AIBrix's own format, as often as it changes.
type endpoints struct{ path string }

func (e *endpoints) Type() string { return "file" }

func (e *endpoints) Watch(handler discovery.EventHandler, stop <-chan struct{}) error {
	known := map[string]*v1.Pod{}
	e.tell(known, handler)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(look):
				e.tell(known, handler)
			}
		}
	}()
	return nil
}

func (e *endpoints) tell(known map[string]*v1.Pod, handler discovery.EventHandler) {
	found := map[string]*v1.Pod{}
	err := discovery.NewStaticProvider(e.path).Watch(func(event discovery.WatchEvent) {
		pod := event.Object.(*v1.Pod)
		// The provider's names count the pods before one, and would change with them.
		pod.Name = pod.Labels["model.aibrix.ai/name"] + "-" + pod.Labels["model.aibrix.ai/port"]
		found[pod.Name] = pod
	}, nil)
	if err != nil {
		klog.ErrorS(err, "endpoints", "path", e.path)
		return
	}
	for name, pod := range known {
		if found[name] == nil {
			delete(known, name)
			handler(discovery.WatchEvent{Type: discovery.EventDelete, Object: pod})
		}
	}
	for name, pod := range found {
		if known[name] == nil {
			known[name] = pod
			handler(discovery.WatchEvent{Type: discovery.EventAdd, Object: pod})
		}
	}
}

func main() {
	address := flag.String("grpc-bind-address", "127.0.0.1:50052", "where Envoy asks")
	path := flag.String("endpoints-config", "", "the file with the endpoints of each model")
	flag.Parse()
	stop := make(chan struct{})
	cache.InitWithOptions(nil, stop, cache.InitOptions{
		ModelRouterProvider: routing.ModelRouterFactory,
		DiscoveryProvider:   &endpoints{*path},
	})
	plugin := gateway.NewServer(nil, nil, nil)
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		klog.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(mostBytes))
	extproc.RegisterExternalProcessorServer(server, plugin)
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ending
		plugin.Shutdown()
		server.GracefulStop()
		close(stop)
		os.Exit(0)
	}()
	if err := server.Serve(listener); err != nil {
		klog.Fatal(err)
	}
}
