/** An image that cannot be encoded, or an option that is not valid. */
export class EdgeError extends Error {}

export interface Pixels {
  width: number;
  height: number;
  /** RGBA, four bytes per pixel; alpha is ignored. */
  data: Uint8Array | Uint8ClampedArray;
}

export interface EncodeOptions {
  /** 0 (fewest bytes) to 1 (most), for a model with several rates. */
  rate?: number | null;
}

/** Encodes images, one at a time. */
export class EdgeEncoder {
  /** Load a model: the URL or the bytes of its `.wasm` file; by default the one beside the module. */
  static load(source?: string | URL | ArrayBuffer | ArrayBufferView): Promise<EdgeEncoder>;
  readonly modelId: string;
  /** Height and width of the network's input. */
  readonly inputSize: [number, number];
  readonly hasRates: boolean;
  encode(image: Pixels | ImageData, options?: EncodeOptions): Uint8Array;
}

/** Encode an image with the model beside the module. */
export function encode(image: Pixels | ImageData, options?: EncodeOptions): Promise<Uint8Array>;

export interface StreamOptions {
  heads?: string[] | null;
  masks?: string;
  maxInFlight?: number;
}

/** Sends packets over one WebSocket. */
export class StreamClient {
  constructor(server: string, options?: StreamOptions);
  readonly opened: Promise<void>;
  readonly ready: boolean;
  send(packet: Uint8Array): Promise<Record<string, unknown>>;
  close(): void;
}
