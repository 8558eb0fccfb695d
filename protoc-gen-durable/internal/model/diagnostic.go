package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A Code names a kind of mistake.
type Code string

// The codes.
const (
	// GoPackageMissing: no Go import path is known for a file.
	GoPackageMissing Code = "GO_PACKAGE_MISSING"
	// OptionUnknown: there is no such plugin option.
	OptionUnknown Code = "OPTION_UNKNOWN"
	// PackageSuffix: the plugin option package_suffix is not part of a Go name.
	PackageSuffix Code = "PACKAGE_SUFFIX"
	// ObjectUnknown: the plugin option object names no service of the files to
	// generate.
	ObjectUnknown Code = "OBJECT_UNKNOWN"
	// OptionsNewer: the schema uses, or comes with, a newer
	// durable/v1/options.proto. What this plugin does not know, it cannot obey.
	OptionsNewer Code = "OPTIONS_NEWER"

	// NoMethods: an object has no methods.
	NoMethods Code = "NO_METHODS"
	// TypeSyntax: a stored type name is malformed.
	TypeSyntax Code = "TYPE_SYNTAX"
	// TypeDuplicate: two objects have the same stored type name.
	TypeDuplicate Code = "TYPE_DUPLICATE"
	// NameCollision: two things would get the same Go name.
	NameCollision Code = "NAME_COLLISION"
	// NoSideEffectsClientStream: a method to which the client streams is
	// NO_SIDE_EFFECTS.
	NoSideEffectsClientStream Code = "NO_SIDE_EFFECTS_CLIENT_STREAM"

	// KeyType: a key field is not a string.
	KeyType Code = "KEY_TYPE"
	// KeyRepeated: a key field is repeated.
	KeyRepeated Code = "KEY_REPEATED"
	// KeyOneof: a key field is part of a oneof, so another field could unset
	// it.
	KeyOneof Code = "KEY_ONEOF"
	// KeyDefault: a key field has a default value, which would name an object
	// where the caller named none.
	KeyDefault Code = "KEY_DEFAULT"
	// KeyDuplicate: a request has two key fields.
	KeyDuplicate Code = "KEY_DUPLICATE"
	// KeyDifferentKind: the methods of an object disagree whether their keys are
	// names or ids.
	KeyDifferentKind Code = "KEY_DIFFERENT_KIND"
	// KeyNotInObject: a key field is not in the request of an object. It is told
	// of an extension; of a field whose message is a request of services that
	// are no objects; and of one whose message nobody requests, if the same file
	// has an object. A file without services may hold requests for others.
	KeyNotInObject Code = "KEY_NOT_IN_OBJECT"

	// IdempotencyType: an idempotency key field is not a string.
	IdempotencyType Code = "IDEMPOTENCY_TYPE"
	// IdempotencyRepeated: an idempotency key field is repeated.
	IdempotencyRepeated Code = "IDEMPOTENCY_REPEATED"
	// IdempotencyOneof: an idempotency key field is part of a oneof, so another
	// field could unset it.
	IdempotencyOneof Code = "IDEMPOTENCY_ONEOF"
	// IdempotencyDefault: an idempotency key field has a default value, which
	// calls would share where the callers gave none.
	IdempotencyDefault Code = "IDEMPOTENCY_DEFAULT"
	// IdempotencyDuplicate: a request has two idempotency key fields.
	IdempotencyDuplicate Code = "IDEMPOTENCY_DUPLICATE"
	// IdempotencyNotInObject is to idempotency keys what KeyNotInObject is to
	// keys.
	IdempotencyNotInObject Code = "IDEMPOTENCY_NOT_IN_OBJECT"
	// IdempotencyIsKey: a field holds both the key of the object and that of the
	// call.
	IdempotencyIsKey Code = "IDEMPOTENCY_IS_KEY"
	// IdempotencyStream: a streaming method of an object has requests with an
	// idempotency key.
	IdempotencyStream Code = "IDEMPOTENCY_STREAM"
	// IdempotencyReadOnly: only NO_SIDE_EFFECTS methods of objects have the
	// requests with an idempotency key, which has no effect there.
	IdempotencyReadOnly Code = "IDEMPOTENCY_READ_ONLY"

	// AlarmName: the name of an alarm is malformed.
	AlarmName Code = "ALARM_NAME"
	// AlarmDuplicate: two alarms of an object have the same name.
	AlarmDuplicate Code = "ALARM_DUPLICATE"
	// AlarmTooMany: an object has too many alarms.
	AlarmTooMany Code = "ALARM_TOO_MANY"
	// AlarmPayloadUnknown: there is no message of the name that an alarm gives
	// for its payload.
	AlarmPayloadUnknown Code = "ALARM_PAYLOAD_UNKNOWN"
	// AlarmPayloadNotImported: the payload is in a file that the one with the
	// alarm does not import.
	AlarmPayloadNotImported Code = "ALARM_PAYLOAD_NOT_IMPORTED"
	// AlarmPayloadType: the payload of an alarm is something else than a message.
	AlarmPayloadType Code = "ALARM_PAYLOAD_TYPE"
	// AlarmRetry: the retry policy of an alarm is out of bounds.
	AlarmRetry Code = "ALARM_RETRY"

	// HibernateNotObject: a method has options of ours, and is of a service that
	// is no object.
	HibernateNotObject Code = "HIBERNATE_NOT_OBJECT"
	// HibernateNotStream: the responses of a hibernatable method do not stream.
	HibernateNotStream Code = "HIBERNATE_NOT_STREAM"
	// HibernateReadOnly: a hibernatable method is NO_SIDE_EFFECTS, and its
	// handlers may write.
	HibernateReadOnly Code = "HIBERNATE_READ_ONLY"
	// AttachmentWithoutHibernate: a method has an attachment, and is not
	// hibernatable.
	AttachmentWithoutHibernate Code = "ATTACHMENT_WITHOUT_HIBERNATE"
	// AttachmentUnknown: there is no message of the name that a method gives for
	// its attachment.
	AttachmentUnknown Code = "ATTACHMENT_UNKNOWN"
	// AttachmentNotImported: the attachment is in a file that the one with the
	// method does not import.
	AttachmentNotImported Code = "ATTACHMENT_NOT_IMPORTED"
	// AttachmentType: the attachment of a method is something else than a message.
	AttachmentType Code = "ATTACHMENT_TYPE"
	// ResumeWithoutHibernate: the connections of a method can be resumed, and it
	// is not hibernatable.
	ResumeWithoutHibernate Code = "RESUME_WITHOUT_HIBERNATE"
	// Resume: what is kept of connections that can be resumed is out of bounds.
	Resume Code = "RESUME"
)

// A Diagnostic is one mistake and where it was made.
type Diagnostic struct {
	Path         string // as the file is imported; empty for the plugin's options
	Line, Column int    // from 1; 0 where the request does not tell
	Text         string
	Code         Code
}

func (d *Diagnostic) Error() string {
	switch {
	case d.Path == "":
		return fmt.Sprintf("%s [%s]", d.Text, d.Code)
	case d.Line == 0:
		return fmt.Sprintf("%s: %s [%s]", d.Path, d.Text, d.Code)
	}
	return fmt.Sprintf("%s:%d:%d: %s [%s]", d.Path, d.Line, d.Column, d.Text, d.Code)
}

// diagnostics collects the mistakes of a run.
type diagnostics struct{ list []*Diagnostic }

// addf adds a mistake that was made at path in file, or at the closest thing
// around it of which the position is known.
func (d *diagnostics) addf(file *descriptorpb.FileDescriptorProto, path protoreflect.SourcePath, code Code, format string, args ...any) {
	line, column := position(file.GetSourceCodeInfo(), path)
	d.list = append(d.list, &Diagnostic{file.GetName(), line, column, fmt.Sprintf(format, args...), code})
}

// optionf adds a mistake in the options of the plugin.
func (d *diagnostics) optionf(code Code, format string, args ...any) {
	d.list = append(d.list, &Diagnostic{Text: fmt.Sprintf(format, args...), Code: code})
}

// err returns all mistakes, by file and line, and nil if there are none.
func (d *diagnostics) err() error {
	slices.SortStableFunc(d.list, func(a, b *Diagnostic) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), a.Line-b.Line, a.Column-b.Column)
	})
	var errs []error
	for i, diag := range d.list {
		if i == 0 || *diag != *d.list[i-1] {
			errs = append(errs, diag)
		}
	}
	return errors.Join(errs...)
}

// position returns the position of what is at path, or of the innermost thing
// around it that has one. Compilers differ in how far into options they tell.
func position(info *descriptorpb.SourceCodeInfo, path protoreflect.SourcePath) (line, column int) {
	for ; len(path) > 0; path = path[:len(path)-1] {
		for _, loc := range info.GetLocation() {
			if len(loc.GetSpan()) >= 3 && slices.Equal(loc.GetPath(), path) {
				return int(loc.GetSpan()[0]) + 1, int(loc.GetSpan()[1]) + 1
			}
		}
	}
	return 0, 0
}

// at returns the path of something inside what is at path.
func at(path protoreflect.SourcePath, inner ...protoreflect.FieldNumber) protoreflect.SourcePath {
	res := slices.Clone(path)
	for _, n := range inner {
		res = append(res, int32(n))
	}
	return res
}
