<?php
/**
 * A field for a picture on the profile page, for sites whose theme or plugins have none.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Pictures lie in a folder of their own, encoded anew, under names that nobody guesses. */
final class Own_Field {

	private const META    = 'avatarmod_upload';
	private const NONCE   = 'avatarmod_upload';
	private const SIDE_PX = 512;

	private const TYPES = array(
		'jpg|jpeg' => 'image/jpeg',
		'png'      => 'image/png',
		'gif'      => 'image/gif',
		'webp'     => 'image/webp',
	);

	/** Show and take it. */
	public static function hook(): void {
		if ( ! Settings::has_own_field() ) {
			return;
		}
		add_action( 'user_edit_form_tag', array( self::class, 'form_tag' ) );
		add_action( 'show_user_profile', array( self::class, 'show' ) );
		add_action( 'edit_user_profile', array( self::class, 'show' ) );
		add_action( 'user_profile_update_errors', array( self::class, 'save' ), 10, 3 );
		add_action( 'deleted_user', array( self::class, 'remove_files' ) );
		add_action( 'delete_user', array( self::class, 'remember_files' ) );
	}

	/** The picture that somebody chose here. */
	public static function picture( int $user_id ): ?Picture {
		$name = Settings::has_own_field() ? (string) get_user_meta( $user_id, self::META, true ) : '';
		return '' === $name ? null : Picture::named( $name );
	}

	/** Forms with files. */
	public static function form_tag(): void {
		echo ' enctype="multipart/form-data"';
	}

	/** The rows of the profile page. */
	public static function show( \WP_User $user ): void {
		$has = '' !== (string) get_user_meta( $user->ID, self::META, true );
		?>
		<h2><?php esc_html_e( 'Avatar', 'avatarmod' ); ?></h2>
		<table class="form-table" role="presentation">
			<tr>
				<th scope="row"><label for="avatarmod_file"><?php esc_html_e( 'Your avatar', 'avatarmod' ); ?></label></th>
				<td>
					<?php echo get_avatar( $user->ID, 96 ); ?>
					<?php wp_nonce_field( self::NONCE . $user->ID, 'avatarmod_nonce' ); ?>
					<p><input type="file" name="avatarmod_file" id="avatarmod_file" accept="image/*"></p>
					<?php if ( $has ) : ?>
						<p><label><input type="checkbox" name="avatarmod_remove" value="1">
							<?php esc_html_e( 'Remove it', 'avatarmod' ); ?></label></p>
					<?php endif; ?>
					<p class="description"><?php echo esc_html( Notices::sentence( Record::of( $user->ID ) ) ); ?></p>
				</td>
			</tr>
		</table>
		<?php
	}

	/** Take what the profile page sends. */
	public static function save( \WP_Error $errors, bool $update, $user ): void {
		$user_id = (int) ( $user->ID ?? 0 );
		$nonce   = isset( $_POST['avatarmod_nonce'] ) ? sanitize_key( $_POST['avatarmod_nonce'] ) : '';
		if ( ! $update || ! current_user_can( 'edit_user', $user_id ) || ! wp_verify_nonce( $nonce, self::NONCE . $user_id ) ) {
			return;
		}
		if ( ! empty( $_POST['avatarmod_remove'] ) ) {
			self::change( $user_id, '' );
			Sender::forget( $user_id );
		} elseif ( ! empty( $_FILES['avatarmod_file']['name'] ) ) {
			$name = self::store( $_FILES['avatarmod_file'] ); // phpcs:ignore WordPress.Security.ValidatedSanitizedInput -- wp_handle_upload() does.
			if ( is_wp_error( $name ) ) {
				$errors->add( 'avatarmod', $name->get_error_message() );
				return;
			}
			self::change( $user_id, $name );
			Sender::examine_later( $user_id );
		}
	}

	/** Their file goes with somebody who is deleted, when it is certain that they are. */
	public static function remember_files( int $user_id ): void {
		wp_cache_set( $user_id, (string) get_user_meta( $user_id, self::META, true ), 'avatarmod_deleted' );
	}

	/** See above. */
	public static function remove_files( int $user_id ): void {
		self::delete( (string) wp_cache_get( $user_id, 'avatarmod_deleted' ) );
	}

	/**
	 * Keep an upload, no larger than avatars are shown.
	 *
	 * @return string|\WP_Error The name below the folder of uploads.
	 */
	private static function store( array $file ) {
		$given = wp_handle_upload(
			$file,
			array(
				'test_form'                => false,
				'mimes'                    => self::TYPES,
				'unique_filename_callback' => static function ( $dir, $name, $ext ) {
					return bin2hex( random_bytes( 16 ) ) . strtolower( $ext );
				},
			)
		);
		if ( isset( $given['error'] ) ) {
			return new \WP_Error( 'avatarmod', $given['error'] );
		}
		$editor = wp_get_image_editor( $given['file'] );
		if ( is_wp_error( $editor ) ) {
			wp_delete_file( $given['file'] );
			return new \WP_Error( 'avatarmod', __( 'This picture cannot be read; choose another one.', 'avatarmod' ) );
		}
		$editor->maybe_exif_rotate();
		$editor->resize( self::SIDE_PX, self::SIDE_PX, true );
		// Without metadata, and of one frame: what is looked at is what is shown.
		$saved = $editor->save( dirname( $given['file'] ) . '/' . bin2hex( random_bytes( 16 ) ) . '.png', 'image/png' );
		wp_delete_file( $given['file'] );
		if ( is_wp_error( $saved ) ) {
			return $saved;
		}
		return ltrim( substr( $saved['path'], strlen( wp_get_upload_dir()['basedir'] ) ), '/' );
	}

	/** Put another file in the place of what somebody had. */
	private static function change( int $user_id, string $name ): void {
		$before = (string) get_user_meta( $user_id, self::META, true );
		if ( '' === $name ) {
			delete_user_meta( $user_id, self::META );
		} else {
			update_user_meta( $user_id, self::META, $name );
		}
		self::delete( $before );
	}

	/** Delete a file of ours. */
	private static function delete( string $name ): void {
		if ( '' !== $name && 0 === validate_file( $name ) ) {
			wp_delete_file( path_join( wp_get_upload_dir()['basedir'], $name ) );
		}
	}
}
