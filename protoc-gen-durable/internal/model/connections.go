package model

import (
	"time"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// Limits of what a schema may say of resuming. The options.proto tells them.
const (
	maxResumeMessages = 10_000
	maxResumeBytes    = 67_108_864
	minResumeWindow   = time.Second
	maxResumeWindow   = 7 * 24 * time.Hour
)

// The fields of MethodOptions and ResumeOptions, for positions.
const (
	streamField         = 1
	attachmentField     = 2
	resumeField         = 3
	resumeMessagesField = 1
	resumeBytesField    = 2
	resumeWindowField   = 3
)

// addConnection adds to m what the schema says of its connections, if it is
// hibernatable. What is wrong in a file that is not to generate is told when it
// is.
func (l *loader) addConnection(file *protogen.File, m *Method) {
	opts := methodOptions(m.method)
	of := "the method " + string(m.method.Desc.Name()) + " of " + m.object.ServiceName
	addf := func(code Code, field protoreflect.FieldNumber, format string, args ...any) {
		if file.Generate {
			l.diags.addf(file.Proto, methodPath(m.method, field), code, format, args...)
		}
	}
	switch opts.GetStream() {
	case durablev1.StreamMode_STREAM_MODE_HIBERNATABLE:
	case durablev1.StreamMode_STREAM_MODE_UNSPECIFIED:
		if opts.GetAttachment() != "" {
			addf(AttachmentWithoutHibernate, attachmentField, "%s has an attachment, which only goes with STREAM_MODE_HIBERNATABLE", of)
		}
		if opts.GetResume() != nil {
			addf(ResumeWithoutHibernate, resumeField, "%s has resume options, which only go with STREAM_MODE_HIBERNATABLE", of)
		}
		return
	default:
		return // that it is unknown is told elsewhere
	}
	c := &Connection{Resume: opts.GetResume() != nil, method: m}
	if m.method.Desc.IsStreamingServer() {
		m.Connection = c
	} else {
		addf(HibernateNotStream, streamField, "%s is STREAM_MODE_HIBERNATABLE, which only methods whose responses stream can be", of)
	}
	if m.ReadOnly {
		addf(HibernateReadOnly, streamField, "%s is NO_SIDE_EFFECTS, and STREAM_MODE_HIBERNATABLE, whose handlers may write", of)
	}
	if opts.GetAttachment() != "" {
		c.Attachment = l.message(file, attachmentReference, of, opts.GetAttachment(), func(code Code, format string, args ...any) {
			addf(code, attachmentField, format, args...)
		})
	}
	checkResume(of, opts.GetResume(), func(field protoreflect.FieldNumber, format string, args ...any) {
		if file.Generate {
			l.diags.addf(file.Proto, methodPath(m.method, resumeField, field), Resume, format, args...)
		}
	})
}

func checkResume(of string, resume *durablev1.ResumeOptions, addf func(field protoreflect.FieldNumber, format string, args ...any)) {
	if n := resume.GetMaxMessages(); n > maxResumeMessages {
		addf(resumeMessagesField, "%s has %d as max_messages: at most %d", of, n, maxResumeMessages)
	}
	if n := resume.GetMaxBytes(); n > maxResumeBytes {
		addf(resumeBytesField, "%s has %d as max_bytes: at most %d", of, n, maxResumeBytes)
	}
	switch window := resume.GetWindow(); {
	case window == nil:
	case !window.IsValid():
		addf(resumeWindowField, "%s has a window of %d seconds and %d nanos: that is no duration", of, window.GetSeconds(), window.GetNanos())
	case window.AsDuration() < minResumeWindow || window.AsDuration() > maxResumeWindow:
		addf(resumeWindowField, "%s has a window of %v: it must be from 1s to 168h, which is 7 days", of, window.AsDuration())
	}
}

// checkNoObject refuses options of methods of a service that is no object, where
// they would have no effect.
func (l *loader) checkNoObject(file *protogen.File, service *protogen.Service) {
	if !file.Generate {
		return
	}
	for _, method := range service.Methods {
		opts := methodOptions(method).ProtoReflect()
		fields := opts.Descriptor().Fields()
		for i := range fields.Len() {
			if field := fields.Get(i); opts.Has(field) {
				l.diags.addf(file.Proto, methodPath(method, field.Number()), HibernateNotObject,
					"the method %s has the option (durable.v1.method).%s, but %s is no object", method.Desc.Name(), field.Name(), service.Desc.Name())
				break
			}
		}
	}
}

func methodOptions(method *protogen.Method) *durablev1.MethodOptions {
	opts := method.Desc.Options().(*descriptorpb.MethodOptions)
	return proto.GetExtension(opts, durablev1.E_Method).(*durablev1.MethodOptions)
}

// methodPath is where a method has something of its options.
func methodPath(method *protogen.Method, inner ...protoreflect.FieldNumber) protoreflect.SourcePath {
	return at(at(method.Location.Path, 4, durablev1.E_Method.TypeDescriptor().Number()), inner...)
}
