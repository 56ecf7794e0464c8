/* Loads an export and answers requests, as TF Serving does: without Python, without an op library.

   usage: run_export EXPORT RESPONSES MAPPED REQUESTS...

   EXPORT     the folder of a version
   RESPONSES  written: a TFRecord of PredictResponse, one for each request
   MAPPED     written: the files that this process had mapped after the last of them
   REQUESTS   TFRecords of PredictionLog with a predict_log, as the requests that warm a server up

   TF_LoadSessionFromSavedModel is tensorflow::LoadSavedModel, by which TF Serving's session bundle
   loads a version too. Tensors are found by the names in the SignatureDef, and like there a request
   must have each of its inputs and no other. The messages are read and written here in protobuf's
   wire format (https://protobuf.dev/programming-guides/encoding), so that nothing is needed but
   TensorFlow's C API. A failure is told on stderr, and the status is 1.
*/

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void fail(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vfprintf(stderr, format, values);
  va_end(values);
  fputc('\n', stderr);
  exit(1);
}

static void *allocate(void *old, size_t size) {
  void *memory = realloc(old, size ? size : 1);
  if (!memory) fail("no memory for %zu bytes", size);
  return memory;
}

/* Bytes to read, and bytes that are being written. */

typedef struct {
  const uint8_t *data;
  size_t size;
} Bytes;

typedef struct {
  uint8_t *data;
  size_t size, capacity;
} Buffer;

static Bytes text(const char *string) { return (Bytes){(const uint8_t *)string, strlen(string)}; }

static bool equal(Bytes a, Bytes b) {
  return a.size == b.size && (!a.size || !memcmp(a.data, b.data, a.size));
}

static void put(Buffer *to, const void *data, size_t size) {
  if (to->size + size > to->capacity) {
    to->capacity = 2 * (to->size + size);
    to->data = allocate(to->data, to->capacity);
  }
  if (size) memcpy(to->data + to->size, data, size);
  to->size += size;
}

static Bytes written(const Buffer *buffer) { return (Bytes){buffer->data, buffer->size}; }

/* Messages: the field numbers are those of the .proto files. */

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };
enum { PREDICTION_LOG_PREDICT_LOG = 6, PREDICT_LOG_REQUEST = 1 };
enum { REQUEST_MODEL_SPEC = 1, REQUEST_INPUTS = 2, REQUEST_OUTPUT_FILTER = 3 };
enum { RESPONSE_OUTPUTS = 1, RESPONSE_MODEL_SPEC = 2, MODEL_SPEC_SIGNATURE_NAME = 3 };
enum { META_GRAPH_SIGNATURE = 5, SIGNATURE_INPUTS = 1, SIGNATURE_OUTPUTS = 2, INFO_NAME = 1 };
enum { TENSOR_DTYPE = 1, TENSOR_SHAPE = 2, TENSOR_CONTENT = 4, TENSOR_INT = 7, TENSOR_STRING = 8 };
enum { SHAPE_DIM = 2, DIM_SIZE = 1, MAP_KEY = 1, MAP_VALUE = 2 };

typedef struct {
  unsigned number, type;
  uint64_t value; /* of a varint */
  Bytes bytes;    /* of a field with a length */
} Field;

static Bytes take(Bytes *from, size_t size) {
  if (size > from->size) fail("a message ends in the middle of a field");
  Bytes taken = {from->data, size};
  from->data += size;
  from->size -= size;
  return taken;
}

static uint64_t take_varint(Bytes *from) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    uint8_t byte = *take(from, 1).data;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("a number in a message has no end");
  return 0;
}

static bool next_field(Bytes *message, Field *field) {
  if (!message->size) return false;
  uint64_t key = take_varint(message);
  *field = (Field){(unsigned)(key >> 3), (unsigned)(key & 7), 0, {NULL, 0}};
  switch (field->type) {
    case VARINT: field->value = take_varint(message); break;
    case FIXED64: take(message, 8); break;
    case FIXED32: take(message, 4); break;
    case LENGTH: field->bytes = take(message, take_varint(message)); break;
    default: fail("a message has a field of the unknown type %u", field->type);
  }
  return true;
}

/* The last field of that number, as protobuf has it; an empty one if there is none. */
static Field field_of(Bytes message, unsigned number) {
  Field field, found = {0, 0, 0, {NULL, 0}};
  while (next_field(&message, &field)) {
    if (field.number == number) found = field;
  }
  return found;
}

static int count(Bytes message, unsigned number) {
  Field field;
  int found = 0;
  while (next_field(&message, &field)) found += field.number == number;
  return found;
}

static bool look_up(Bytes message, unsigned map, Bytes key, Bytes *value) {
  Field field;
  while (next_field(&message, &field)) {
    if (field.number == map && equal(field_of(field.bytes, MAP_KEY).bytes, key)) {
      *value = field_of(field.bytes, MAP_VALUE).bytes;
      return true;
    }
  }
  return false;
}

static void put_varint(Buffer *to, uint64_t value) {
  for (; value >= 128; value >>= 7) put(to, &(uint8_t){(uint8_t)(value | 128)}, 1);
  put(to, &(uint8_t){(uint8_t)value}, 1);
}

static void put_number(Buffer *to, unsigned number, uint64_t value) {
  put_varint(to, number << 3 | VARINT);
  put_varint(to, value);
}

static void put_bytes(Buffer *to, unsigned number, Bytes bytes) {
  put_varint(to, number << 3 | LENGTH);
  put_varint(to, bytes.size);
  put(to, bytes.data, bytes.size);
}

/* TFRecords: a length, its checksum, the bytes, their checksum; all little-endian. */

static uint32_t masked_crc32c(Bytes bytes) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < bytes.size; i++) {
    crc ^= bytes.data[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put_record(Buffer *to, Bytes record) {
  uint64_t size = record.size;
  uint32_t of_size = masked_crc32c((Bytes){(uint8_t *)&size, 8}), of_record = masked_crc32c(record);
  put(to, &size, 8);
  put(to, &of_size, 4);
  put(to, record.data, record.size);
  put(to, &of_record, 4);
}

static Bytes take_record(Bytes *file) {
  uint64_t size;
  uint32_t checksum;
  Bytes length = take(file, 8);
  memcpy(&size, length.data, 8);
  memcpy(&checksum, take(file, 4).data, 4);
  if (checksum != masked_crc32c(length)) fail("a record's length does not fit its checksum");
  Bytes record = take(file, size);
  memcpy(&checksum, take(file, 4).data, 4);
  if (checksum != masked_crc32c(record)) fail("a record does not fit its checksum");
  return record;
}

static Buffer read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) fail("%s: %s", path, strerror(errno));
  Buffer read = {NULL, 0, 0};
  uint8_t part[65536];
  for (size_t size; (size = fread(part, 1, sizeof part, file));) put(&read, part, size);
  if (ferror(file)) fail("%s: cannot read it", path);
  fclose(file);
  return read;
}

static void write_file(const char *path, Buffer content) {
  FILE *file = fopen(path, "wb");
  if (!file) fail("%s: %s", path, strerror(errno));
  bool all = fwrite(content.data, 1, content.size, file) == content.size;
  if (fclose(file) || !all) fail("%s: cannot write it", path);
}

/* Tensors. */

static void check(TF_Status *status, const char *doing) {
  if (TF_GetCode(status) != TF_OK) fail("%s: %s", doing, TF_Message(status));
}

/* Of a TensorProto. Strings are its string_val; numbers its tensor_content, or of int32 int_val.
   Where it has fewer values than the shape, the last is repeated. */
static TF_Tensor *read_tensor(Bytes proto) {
  TF_DataType dtype = (TF_DataType)field_of(proto, TENSOR_DTYPE).value;
  Bytes shape = field_of(proto, TENSOR_SHAPE).bytes;
  int rank = 0;
  int64_t dims[8], size = 1;
  for (Field dim; next_field(&shape, &dim);) {
    if (dim.number != SHAPE_DIM) continue;
    if (rank == 8) fail("a tensor has more than 8 axes");
    dims[rank] = (int64_t)field_of(dim.bytes, DIM_SIZE).value;
    size *= dims[rank++];
  }
  size_t width = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
  TF_Tensor *tensor = TF_AllocateTensor(dtype, dims, rank, (size_t)size * width);
  TF_TString *strings = TF_TensorData(tensor);
  int32_t *numbers = TF_TensorData(tensor);
  Bytes content = field_of(proto, TENSOR_CONTENT).bytes;
  if (content.size) {
    if (dtype == TF_STRING || content.size != TF_TensorByteSize(tensor)) {
      fail("a tensor's content is not of the size of its shape");
    }
    memcpy(TF_TensorData(tensor), content.data, content.size);
    return tensor;
  }
  int64_t read = 0;
  for (Field field; next_field(&proto, &field);) {
    if (dtype == TF_STRING && field.number == TENSOR_STRING && read < size) {
      TF_StringInit(&strings[read]);
      TF_StringCopy(&strings[read++], (const char *)field.bytes.data, field.bytes.size);
    } else if (dtype == TF_INT32 && field.number == TENSOR_INT) {
      while (field.bytes.size && read < size) numbers[read++] = (int32_t)take_varint(&field.bytes);
    }
  }
  if (read == 0 && size > 0) fail("a tensor of type %d has no values that can be read", dtype);
  for (; read < size; read++) {
    if (dtype == TF_STRING) {
      TF_TString *last = &strings[read - 1];
      TF_StringInit(&strings[read]);
      TF_StringCopy(&strings[read], TF_StringGetDataPointer(last), TF_StringGetSize(last));
    } else {
      numbers[read] = numbers[read - 1];
    }
  }
  return tensor;
}

static int64_t num_elements(const TF_Tensor *tensor) {
  int64_t size = 1;
  for (int axis = 0; axis < TF_NumDims(tensor); axis++) size *= TF_Dim(tensor, axis);
  return size;
}

static void put_tensor(Buffer *to, const TF_Tensor *tensor) {
  put_number(to, TENSOR_DTYPE, TF_TensorType(tensor));
  Buffer shape = {NULL, 0, 0};
  for (int axis = 0; axis < TF_NumDims(tensor); axis++) {
    Buffer dim = {NULL, 0, 0};
    put_number(&dim, DIM_SIZE, (uint64_t)TF_Dim(tensor, axis));
    put_bytes(&shape, SHAPE_DIM, written(&dim));
    free(dim.data);
  }
  put_bytes(to, TENSOR_SHAPE, written(&shape));
  free(shape.data);
  if (TF_TensorType(tensor) != TF_STRING) {
    put_bytes(to, TENSOR_CONTENT, (Bytes){TF_TensorData(tensor), TF_TensorByteSize(tensor)});
    return;
  }
  const TF_TString *strings = TF_TensorData(tensor);
  for (int64_t i = 0; i < num_elements(tensor); i++) {
    const char *data = TF_StringGetDataPointer(&strings[i]);
    put_bytes(to, TENSOR_STRING, (Bytes){(const uint8_t *)data, TF_StringGetSize(&strings[i])});
  }
}

static void delete_tensor(TF_Tensor *tensor) {
  if (TF_TensorType(tensor) == TF_STRING) {
    TF_TString *strings = TF_TensorData(tensor);
    for (int64_t i = 0; i < num_elements(tensor); i++) TF_StringDealloc(&strings[i]);
  }
  TF_DeleteTensor(tensor);
}

/* The model. */

typedef struct {
  TF_Graph *graph;
  TF_Session *session;
  TF_Buffer *meta_graph; /* a MetaGraphDef */
} Model;

static Model load(const char *folder) {
  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  Model model = {TF_NewGraph(), NULL, TF_NewBuffer()};
  const char *tags[] = {"serve"};
  model.session = TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, model.graph,
                                               model.meta_graph, status);
  check(status, "loading");
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return model;
}

/* Of a TensorInfo, whose name is OPERATION:NUMBER. */
static TF_Output tensor_of(const Model *model, Bytes info) {
  Bytes name = field_of(info, INFO_NAME).bytes;
  size_t colon = name.size;
  while (colon && name.data[colon - 1] != ':') colon--;
  if (!colon) fail("the signature's tensor '%.*s' has no number", (int)name.size, name.data);
  char *operation = allocate(NULL, colon);
  memcpy(operation, name.data, colon - 1);
  operation[colon - 1] = 0;
  int number = 0;
  for (size_t i = colon; i < name.size; i++) number = 10 * number + name.data[i] - '0';
  TF_Output tensor = {TF_GraphOperationByName(model->graph, operation), number};
  if (!tensor.oper) fail("the graph has no operation '%s', which the signature names", operation);
  free(operation);
  return tensor;
}

static void answer(const Model *model, Bytes request, Buffer *response) {
  Bytes spec = field_of(request, REQUEST_MODEL_SPEC).bytes;
  Bytes name = field_of(spec, MODEL_SPEC_SIGNATURE_NAME).bytes, signature, value;
  if (!name.size) name = text("serving_default");
  Bytes meta_graph = {model->meta_graph->data, model->meta_graph->length};
  if (!look_up(meta_graph, META_GRAPH_SIGNATURE, name, &signature)) {
    fail("the model has no signature '%.*s'", (int)name.size, name.data);
  }
  int num_inputs = count(signature, SIGNATURE_INPUTS), given = count(request, REQUEST_INPUTS);
  int num_outputs = count(signature, SIGNATURE_OUTPUTS);
  if (given != num_inputs) fail("a request has %d inputs, not %d", given, num_inputs);
  if (count(request, REQUEST_OUTPUT_FILTER)) fail("a request asks for some of the outputs only");

  TF_Output *inputs = allocate(NULL, num_inputs * sizeof *inputs);
  TF_Output *outputs = allocate(NULL, num_outputs * sizeof *outputs);
  TF_Tensor **in = allocate(NULL, num_inputs * sizeof *in);
  TF_Tensor **out = allocate(NULL, num_outputs * sizeof *out);
  Bytes *keys = allocate(NULL, num_outputs * sizeof *keys), rest = signature;
  int i = 0, o = 0;
  for (Field field; next_field(&rest, &field);) {
    if (field.number != SIGNATURE_INPUTS && field.number != SIGNATURE_OUTPUTS) continue;
    Bytes key = field_of(field.bytes, MAP_KEY).bytes;
    Bytes info = field_of(field.bytes, MAP_VALUE).bytes;
    if (field.number == SIGNATURE_INPUTS) {
      if (!look_up(request, REQUEST_INPUTS, key, &value)) {
        fail("a request has no input '%.*s'", (int)key.size, key.data);
      }
      inputs[i] = tensor_of(model, info);
      in[i++] = read_tensor(value);
    } else {
      outputs[o] = tensor_of(model, info);
      keys[o++] = key;
    }
  }

  TF_Status *status = TF_NewStatus();
  TF_SessionRun(model->session, NULL, inputs, in, i, outputs, out, o, NULL, 0, NULL, status);
  check(status, "running");
  for (int k = 0; k < o; k++) {
    Buffer tensor = {NULL, 0, 0}, entry = {NULL, 0, 0};
    put_tensor(&tensor, out[k]);
    put_bytes(&entry, MAP_KEY, keys[k]);
    put_bytes(&entry, MAP_VALUE, written(&tensor));
    put_bytes(response, RESPONSE_OUTPUTS, written(&entry));
    free(tensor.data);
    free(entry.data);
    TF_DeleteTensor(out[k]);
  }
  put_bytes(response, RESPONSE_MODEL_SPEC, spec);
  for (int k = 0; k < i; k++) delete_tensor(in[k]);
  TF_DeleteStatus(status);
  free(inputs), free(outputs), free(in), free(out), free(keys);
}

int main(int count_of_arguments, char **arguments) {
  if (count_of_arguments < 5) fail("usage: run_export EXPORT RESPONSES MAPPED REQUESTS...");
  Model model = load(arguments[1]);
  Buffer responses = {NULL, 0, 0};
  for (int argument = 4; argument < count_of_arguments; argument++) {
    Buffer file = read_file(arguments[argument]);
    for (Bytes rest = written(&file); rest.size;) {
      Bytes log = field_of(take_record(&rest), PREDICTION_LOG_PREDICT_LOG).bytes;
      if (!log.size) fail("%s: a record is no request of Predict", arguments[argument]);
      Buffer response = {NULL, 0, 0};
      answer(&model, field_of(log, PREDICT_LOG_REQUEST).bytes, &response);
      put_record(&responses, written(&response));
      free(response.data);
    }
    free(file.data);
  }
  write_file(arguments[2], responses);
  write_file(arguments[3], read_file("/proc/self/maps"));
  return 0;
}
