// Command protoc-gen-durable is a protoc plugin. It turns the protobuf services
// that are durable objects into Go: an interface to implement, a function that
// registers the implementation, and a typed stub to call it.
//
// A service is an object when it has the option (durable.v1.service).object, or
// when the plugin option object names it. From buf it is run like this:
//
//	plugins:
//	  - local: ["go", "tool", "protoc-gen-durable"]
//	    out: gen
//	    opt: paths=source_relative
//
// # Options
//
//   - package_suffix=durable: the generated code of package counterv1 goes to
//     package counterv1durable in a directory of that name beside it, where no
//     message can collide with it. Empty: into the package of the messages.
//   - object=full.service.Name: makes a service an object whose file cannot be
//     edited. Its stored type is the full name, its key comes from header or URL,
//     or is the default name. It may be given many times. With buf, several
//     directories and this option need "strategy: all".
//   - module, paths and M mean what they mean to protoc-gen-go.
//
// # Names
//
// Service CounterService is object Counter: the suffix Service falls where
// something remains. Names of packages, messages and methods are those of
// protoc-gen-go. In package counterv1durable there are
//
//	CounterHandler  UnimplementedCounterHandler  CounterFactory  RegisterCounter
//	CounterTx  CounterView  CounterTurns  CounterWatchStream, for each streaming method
//	CounterClient  NewCounterClient  CounterStub
//	CounterType  CounterServiceName  CounterAddProcedure, for each method
//
// and for each hibernatable method, in place of CounterWatchStream
//
//	CounterWatchConn  CounterWatchConnView  CounterWatchConns  CounterWatchConnViews
//
// The method WatchConns of CounterTx and CounterView returns them. Where clients
// stream, and cannot resume, CounterTx has a method WatchAutoResponse. The
// handlers are the methods WatchOpen, WatchMessage, where clients stream, and
// WatchClose of CounterHandler, in place of Watch. The stub has Watch, as for every
// stream.
//
// For alarms there are, where the schema declares the default one and one named sweep
//
//	CounterAlarm  CounterSweepAlarm  CounterSweepAlarmName
//	CounterAlarms  CounterAlarmViews, which have a method Sweep
//
// Their handlers are the methods Alarm and SweepAlarm of CounterHandler, beside
// those of the service.
//
// A method named Ref is Ref_ in the stub, which embeds durable.Ref; it keeps its
// name everywhere else. Methods named ID, Name or ObjectType hide the methods
// which the stub has from durable.Ref; write stub.Ref.Name() for those. Any other
// two names that meet are a mistake in the schema, [NAME_COLLISION]: a name that
// depends on what else there is would change when something is added.
//
// # Mistakes
//
// All mistakes of a run are told at once, each as "path:line:col: text [CODE]".
// Package model lists the codes.
package main
